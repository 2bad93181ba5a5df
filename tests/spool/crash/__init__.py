"""Crashes: a victim works with a spool and keeps a journal, something terrible happens, a witness compares.

python -m tests.spool.crash --kills 10000 --calls --salvage --errors --power 100000 --flips 10000

victim    appends, reads, sends, settles; writes down what it was told, before and after
kills     kill -9 at random moments, life after life on one spool
calls     kill -9, or a failing disk, at every single system call of a script (strace)
salvage   kill -9 at every single system call of a salvage
power     every recorded write and sync replayed to what a disk may hold when the power goes
flips     one bit turned over, in the database or its log
witness   opens what is left, reads all of it, and holds it against the journal
"""
