package ivpn

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/windows/registry"
)

// systemFolder is where IVPN's service writes its files: beside the program,
// whose folder is the default value of a registry key.
func systemFolder() (string, error) {
	key, err := registry.OpenKey(registry.LOCAL_MACHINE, `Software\IVPN Client`, registry.QUERY_VALUE)
	if err != nil {
		return "", fmt.Errorf("look for IVPN's folder in the registry: %w", err)
	}
	defer key.Close() //nolint:errcheck // only read
	home, _, err := key.GetStringValue("")
	if err != nil {
		return "", fmt.Errorf("look for IVPN's folder in the registry: %w", err)
	}
	return firstFolder(filepath.Join(home, "etc"))
}
