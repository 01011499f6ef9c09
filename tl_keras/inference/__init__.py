"""A trained model applied to pictures.

`find_model` finds the file, `trained_model.load` reads it, and `predict_files` predicts files and
folders. What a picture becomes before the model sees it is a part of the saved model
(`pictures.picture_format`).

It may import `config`, `data`, `distributed`, `errors`, `models`, `pictures`, `report`, `runtime`,
`storage` and `training`.
"""
