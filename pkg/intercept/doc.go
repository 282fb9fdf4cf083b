// Package intercept is the contract between a packet backend (Source: NFQUEUE,
// a kernel driver, a test's fake) and whoever decides about packets (Handler).
package intercept
