"""What the testbed promises, checked: one file for each subject, run by `testbed verify`; the command line shows the findings."""
