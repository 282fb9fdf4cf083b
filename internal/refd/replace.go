package refd

// ReplaceConfig writes a configuration file so that there is the old content or the new one, whatever happens. Its mode stays. What b
// says is not checked.
func ReplaceConfig(path string, b []byte) error { return replaceFile(path, b) }
