package procinfo

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
)

// Wine shows its loader as the executable; it is known by the Windows program that it runs.
func TestIntegrationIdentityWine(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("Wine runs programs of the host's architecture, and the small one here is for x86-64")
	}
	testutil.RequireRoot(t)
	testutil.RequireTool(t, "wine", "wineserver", "x86_64-w64-mingw32-gcc") // the last for the rig's own DLLs
	const rig = "../../scripts/wine-rig.sh"
	if out, err := exec.Command(rig).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", rig, err, out)
	}
	exe := filepath.Join(t.TempDir(), "Small Tool.exe")
	if err := os.WriteFile(exe, sleepingProgram(t), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(rig, "wine", exe) // each becomes the next: the process stays
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	wantApp(t, newFinder(t), cmd, "wine:"+strings.ToLower(exe), func(p *conn.Process) bool {
		// Not before Wine has loaded it: then its name is the first argument.
		return strings.HasPrefix(filepath.Base(p.Path), "wine") && p.Args[0] == exe && p.App.Name == "small tool.exe"
	}, true)
}

// sleepingProgram is a Windows program of one page that calls kernel32's Sleep(INFINITE).
func sleepingProgram(t *testing.T) []byte {
	t.Helper()
	const (
		page, file, headers = 0x1000, 0x200, 0x200
		// places within the section
		imports, lookup, addresses, hint, library = 0x40, 0x80, 0x90, 0xa0, 0xb0
	)
	section := make([]byte, file)
	copy(section, "\x48\x83\xec\x28"+ // sub rsp, 40
		"\x83\xc9\xff"+ // or ecx, -1
		"\xff\x15\x83\x00\x00\x00"+ // call [addresses]: 0x83 behind this instruction
		"\xeb\xf5") // and again
	little := binary.LittleEndian
	for i, rva := range []uint32{page + lookup, 0, 0, page + library, page + addresses} {
		little.PutUint32(section[imports+4*i:], rva)
	}
	little.PutUint64(section[lookup:], page+hint)
	little.PutUint64(section[addresses:], page+hint)
	copy(section[hint+2:], "Sleep")
	copy(section[library:], "kernel32.dll")

	optional := pe.OptionalHeader64{
		Magic: 0x20b, SizeOfCode: file, AddressOfEntryPoint: page, BaseOfCode: page, ImageBase: 0x140000000,
		SectionAlignment: page, FileAlignment: file, MajorOperatingSystemVersion: 6, MajorSubsystemVersion: 6,
		SizeOfImage: 2 * page, SizeOfHeaders: headers, Subsystem: pe.IMAGE_SUBSYSTEM_WINDOWS_CUI,
		SizeOfStackReserve: 1 << 20, SizeOfStackCommit: page, SizeOfHeapReserve: 1 << 20, SizeOfHeapCommit: page,
		NumberOfRvaAndSizes: 16,
	}
	optional.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_IMPORT] = pe.DataDirectory{VirtualAddress: page + imports, Size: 40}
	dos := make([]byte, 0x40)
	copy(dos, "MZ")
	dos[0x3c] = byte(len(dos))
	var b bytes.Buffer
	for _, part := range []any{
		dos, []byte("PE\x00\x00"),
		pe.FileHeader{
			Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1, SizeOfOptionalHeader: uint16(binary.Size(optional)),
			Characteristics: pe.IMAGE_FILE_EXECUTABLE_IMAGE | pe.IMAGE_FILE_LARGE_ADDRESS_AWARE,
		},
		optional,
		pe.SectionHeader32{
			Name: [8]uint8{'.', 't', 'e', 'x', 't'}, VirtualSize: page, VirtualAddress: page, SizeOfRawData: file, PointerToRawData: headers,
			Characteristics: pe.IMAGE_SCN_CNT_CODE | pe.IMAGE_SCN_MEM_EXECUTE | pe.IMAGE_SCN_MEM_READ | pe.IMAGE_SCN_MEM_WRITE,
		},
	} {
		if err := binary.Write(&b, little, part); err != nil {
			t.Fatal(err)
		}
	}
	return append(append(b.Bytes(), make([]byte, headers-b.Len())...), section...)
}
