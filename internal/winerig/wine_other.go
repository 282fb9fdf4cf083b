//go:build !windows

package winerig

// UnderWine reports whether this is Wine.
func UnderWine() bool { return false }
