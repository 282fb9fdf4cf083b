package main

import "golang.org/x/sys/windows"

// privilege is what refd needs, and how to get it.
const privilege = "an administrator: use a terminal that was started as administrator"

// privileged reports whether this process may intercept packets.
func privileged() bool { return windows.GetCurrentProcessToken().IsElevated() }
