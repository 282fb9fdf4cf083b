package config

// SalvageText is Salvage of a text.
func SalvageText(b []byte) File {
	f := Default()
	f.salvage(b)
	return f
}
