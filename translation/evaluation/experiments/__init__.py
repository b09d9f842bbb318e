"""Experiments: many trainings and one evaluation of them, row by row, stopped and gone on with at any time.

`guidance.run_guidance` asks whether guidance helps; `plan` says what it would train and what that costs. What is done
stands in files of the results' folder: trainings in `ledger`, judged rows in `rows`.
"""
