package refd

import (
	"io/fs"
	"os"
)

// giveTo leaves a file to its folder, whose access list it has.
func giveTo(*os.File, fs.FileInfo) error { return nil }

// syncFolder does nothing: NTFS has its names in a journal.
func syncFolder(string) error { return nil }
