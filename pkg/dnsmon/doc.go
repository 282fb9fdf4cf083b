// Package dnsmon tells what the resolver of the system answers to programs.
package dnsmon
