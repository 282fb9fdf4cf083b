// Package intercepttest helps to test both sides of package intercept: Source
// is a packet backend in memory for tests of handlers, and Conformance is what
// every backend has to pass.
//
// Source is as strict as a kernel: a packet takes one verdict, a permanent
// verdict decides later packets of the connection without asking, a full queue
// drops, and an Info that a handler keeps changes under its hands.
package intercepttest
