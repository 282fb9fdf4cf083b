// Package ivpntest is a double of the daemon of the IVPN client: it listens on 127.0.0.1, writes port.txt and speaks the
// daemon's protocol, of old and of new versions. It knows nothing of package ivpn, so that the two can disagree.
package ivpntest
