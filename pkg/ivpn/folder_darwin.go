package ivpn

// systemFolder is where IVPN's daemon writes its files.
func systemFolder() (string, error) { return firstFolder("/Library/Application Support/IVPN") }
