// Package stream is the protocol of the kernel driver since version 2.
//
// What is read from the device is a stream of infos: connections that wait for a verdict, ended connections, transferred bytes
// and log lines. One read may return several infos, and an info may begin in one read and end in a later one; Decoder takes
// the stream as it comes. Each info is a type (u8), the length of its body (u32) and the body. An info of an unknown type, or
// one whose body is not what its type says, is skipped by its length.
//
// What is written to the device are commands: one write is one command, an id (u8) and a body.
//
// Addresses are in network byte order, everything else is little-endian; there is no padding.
package stream
