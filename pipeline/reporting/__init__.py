"""The report on the notebook: tables are read and checked, facts follow from them, then figures and words, then the page.

The room decides every file of reports/notebook. It may call `pages`, `trials`, `training` and `common`.
"""
