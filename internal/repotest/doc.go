// Package repotest holds tests about the repository itself: that imports follow the layers, that every package says what it
// is, that exported errors are used, that dependencies stay few and licences compatible. It has no code of its own to import.
package repotest
