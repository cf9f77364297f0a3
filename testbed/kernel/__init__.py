"""A Linux kernel in virtual time: User-Mode Linux in time-travel mode, built once per user, booted as an ordinary program.

`source` finds its source text, `build` makes the program, `guest` boots it and watches over it, `inside` is process 1 in it.
What runs in it is the caller's business: a job is the name of a function and its arguments.
"""
