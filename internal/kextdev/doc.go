// Package kextdev opens the device of a Windows kernel driver and does raw overlapped I/O on it: a read that waits for the
// driver, writes and control calls at the same time.
//
// It does not use os.File, whose lock makes a write wait for a pended read.
package kextdev
