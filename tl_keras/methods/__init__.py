"""How knowledge travels from the source to the target: what trains, and on which loss.

`catalog` has a row for each method, penalty and pretraining. A method is a row and a module of its
name whose `prepare(setting)` says what the loop trains. A penalty is a row and a module of its name
whose `make(setting, *strengths)` gives a term of the loss.

It may import `config`, `data`, `distributed`, `errors`, `models`, `runtime`, `storage` and
`training`.
"""
