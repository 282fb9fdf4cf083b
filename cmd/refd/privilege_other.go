//go:build !windows

package main

import "os"

// privilege is what refd needs, and how to get it.
const privilege = "root: use sudo"

// privileged reports whether this process may intercept packets.
func privileged() bool { return os.Geteuid() == 0 }
