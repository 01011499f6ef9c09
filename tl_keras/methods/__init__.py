"""The methods of transfer: which weights train, and on which loss.

`catalog` has a row for each method, penalty and pretraining. A method is a row and a module of the
same name whose `prepare(run)` returns what the loop trains. A penalty is a row and a module of the
same name whose `make(run, *strengths)` returns a term of the loss.

It may import `config`, `data`, `distributed`, `errors`, `models`, `pictures`, `runtime`, `storage`
and `training`.
"""
