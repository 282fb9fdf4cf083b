// Package config reads refd's configuration file: YAML, strict, with errors
// that name the file, the line and the column, and what to write instead.
package config
