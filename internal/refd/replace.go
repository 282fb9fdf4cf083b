package refd

// ReplaceConfig writes a configuration file so that there is the old content or the new one, whatever happens. Its owner, group and
// mode stay. What b says is not checked.
func ReplaceConfig(path string, b []byte) error { return replaceFile(path, b) }

// WritePrivate puts a new file at path, in place of a file or a symbolic link there, that only its owner can read.
func WritePrivate(path string, b []byte) error { return writeOver(path, b, nil) }
