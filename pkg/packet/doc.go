// Package packet describes packets on their way through a firewall: whose
// connection they belong to (Tuple), what their headers say (Info), and the ten
// verdict methods that every backend offers in the same way (Packet, Once).
//
// Decode reads headers without allocating. The subpackage layers is for users
// of gopacket.
package packet
