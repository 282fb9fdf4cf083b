package config

// DefaultPath is where refd looks for its configuration: in the directory of all programs' data, where Windows has it unless somebody
// moved it.
const DefaultPath = `C:\ProgramData\weir\refd.yaml`
