//! One isolated running copy of a program, its driver and the supervisor that owns it.
