//go:build !linux && !windows

package ivpn

// trustListener trusts whoever listens: the files are what is checked here.
func trustListener(uint16) error { return nil }
