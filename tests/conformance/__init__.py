"""One suite that every backend and every transport passes: each check is written once, as a coroutine."""
