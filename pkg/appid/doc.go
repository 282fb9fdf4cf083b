// Package appid tells what a person would call the app that a process belongs to.
//
// The path of an executable is not that: it has a version in it, it is the interpreter's and not the script's, it is the same in every
// container. Of makes a stable identifier from the process' path, command line, control group and a few files of procfs.
// docs/identity.md has the table, with what a program can forge.
package appid
