// Package kextwire holds what both protocols of the Windows kernel driver have in common: its version, by which the protocol
// is chosen, its control codes and its addresses. The protocols are in the subpackages: ioctl for drivers before version 2,
// which are asked by DeviceIoControl, and stream for the later ones, which are read from and written to.
//
// All of it is pure Go over bytes, for both sides of the device: what a client needs and what a driver does, so that a fake
// driver can be built of it. Everything a driver says is foreign: nothing here panics, and no count or length is believed
// before it was compared with the bytes at hand.
//
// The layouts are those of the tables in the project's facts about Windows; the tests have vectors typed from these tables by
// hand. Integers are little-endian unless a comment says otherwise.
package kextwire
