package ivpn

// systemFolder is where IVPN's daemon writes its files: the Debian and RPM
// packages', and the snap's.
func systemFolder() (string, error) {
	return firstFolder("/etc/opt/ivpn/mutable", "/var/snap/ivpn/common/opt/ivpn/mutable")
}
