// Package ioctl is the protocol of the kernel driver before version 2: every exchange is one DeviceIoControl with a struct in,
// a struct out, or both.
//
// The structs are C structs of the driver, with their padding: 72, 8, 8, 40 and 64 bytes. Integers are little-endian, ports
// too. An IP address is four u32: word i holds the bytes 4i to 4i+3 of the address as a big-endian number and is itself stored
// little-endian, so that the bytes of each word lie in memory in reverse. IPv4 has word 0 only.
package ioctl
