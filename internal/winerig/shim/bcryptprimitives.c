/*
 * What Go programs need and Wine does not have, in the one DLL that every Go program loads before anything else.
 *
 * ProcessPrng is that DLL's own function, which Wine before 10 lacks: random bytes. RtlGenRandom is exported under this number by
 * advapi32.
 *
 * Three more calls get the answer of Windows. Go asks GetProcAddress for all functions of Windows, so that is the one entry of the
 * program's import table that is replaced. Programs need no change: what runs here is what runs on Windows.
 */
#include <stddef.h>

#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE buffer, SIZE_T length)
{
	const SIZE_T most = 1u << 28; /* RtlGenRandom takes 32 bits */

	while (length > 0) {
		SIZE_T part = length < most ? length : most;

		if (!SystemFunction036(buffer, (ULONG)part))
			return FALSE;
		buffer += part;
		length -= part;
	}
	return TRUE;
}

typedef int(WINAPI *ioctl_fn)(UINT_PTR socket, DWORD code, LPVOID in, DWORD in_size, LPVOID out, DWORD out_size, LPDWORD returned,
	LPVOID overlapped, LPVOID completion);
typedef LONG(NTAPI *set_information_fn)(HANDLE file, LPVOID status, LPVOID information, ULONG length, ULONG class);

typedef LONG(NTAPI *query_system_fn)(ULONG class, LPVOID information, ULONG length, PULONG returned);

static ioctl_fn real_ioctl;
static set_information_fn real_set_information;
static query_system_fn real_query_system;

static BOOL same_bytes(const void *a, const void *b, SIZE_T length)
{
	const BYTE *x = a, *y = b;

	while (length && *x == *y)
		x++, y++, length--;
	return length == 0;
}

/* SIO_UDP_NETRESET is unknown to Wine, and without it Go opens no UDP socket. Its neighbour takes the same flag. */
static int WINAPI ioctl(UINT_PTR socket, DWORD code, LPVOID in, DWORD in_size, LPVOID out, DWORD out_size, LPDWORD returned,
	LPVOID overlapped, LPVOID completion)
{
	const DWORD udp_netreset = 0x9800000F, udp_connreset = 0x9800000C;

	if (code == udp_netreset)
		code = udp_connreset;
	return real_ioctl(socket, code, in, in_size, out, out_size, returned, overlapped, completion);
}

/*
 * Wine's answer to a delete with POSIX semantics is "not implemented". Go has another way for systems that do not know of it,
 * which say so.
 */
static LONG NTAPI set_information(HANDLE file, LPVOID status, LPVOID information, ULONG length, ULONG class)
{
	const LONG not_implemented = (LONG)0xC0000002, unknown_class = (LONG)0xC0000003;
	const ULONG disposition_information_ex = 64;
	LONG result = real_set_information(file, status, information, length, class);

	if (class == disposition_information_ex && result == not_implemented)
		return unknown_class;
	return result;
}

/* SYSTEM_PROCESS_INFORMATION; the SDK's header calls most of it reserved. */
struct process {
	ULONG next;
	ULONG skipped[13];
	USHORT name_size, name_room;
	const WCHAR *name;
	LONG priority;
	HANDLE id, parent;
	ULONG handles;
	ULONG session;
};
_Static_assert(offsetof(struct process, name) == 64 && offsetof(struct process, session) == 100, "as in winternl.h");

/* Wine's services are in the session of the user. Those of Windows are in session 0, by which programs know that they are one. */
static LONG NTAPI query_system(ULONG class, LPVOID information, ULONG length, PULONG returned)
{
	static const WCHAR services[] = L"services.exe";
	const ULONG processes = 5;
	LONG result = real_query_system(class, information, length, returned);
	struct process *p = information;

	if (class != processes || result != 0)
		return result;
	for (;; p = (struct process *)((BYTE *)p + p->next)) {
		if (p->name_size == sizeof(services) - sizeof(*services) && same_bytes(p->name, services, p->name_size))
			p->session = 0;
		if (!p->next)
			return result;
	}
}

static BOOL same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* The name may be a number, which has no page behind it. */
static BOOL is_name(const char *name)
{
	return (ULONG_PTR)name > 0xFFFF;
}

static FARPROC WINAPI find(HMODULE module, const char *name)
{
	FARPROC found = GetProcAddress(module, name);

	if (!found || !is_name(name))
		return found;
	if (same(name, "WSAIoctl")) {
		real_ioctl = (ioctl_fn)(void *)found;
		return (FARPROC)(void *)ioctl;
	}
	if (same(name, "NtSetInformationFile")) {
		real_set_information = (set_information_fn)(void *)found;
		return (FARPROC)(void *)set_information;
	}
	if (same(name, "NtQuerySystemInformation")) {
		real_query_system = (query_system_fn)(void *)found;
		return (FARPROC)(void *)query_system;
	}
	return found;
}

/* Replaces GetProcAddress wherever the program's import table has it. */
static void replace(BYTE *image)
{
	IMAGE_NT_HEADERS64 *nt = (IMAGE_NT_HEADERS64 *)(image + ((IMAGE_DOS_HEADER *)image)->e_lfanew);
	IMAGE_DATA_DIRECTORY *dir = &nt->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_IMPORT];
	IMAGE_IMPORT_DESCRIPTOR *import;
	FARPROC sought = (FARPROC)(void *)GetProcAddress;

	if (dir->Size == 0)
		return;
	for (import = (IMAGE_IMPORT_DESCRIPTOR *)(image + dir->VirtualAddress); import->FirstThunk; import++) {
		FARPROC *entry;

		for (entry = (FARPROC *)(image + import->FirstThunk); *entry; entry++) {
			DWORD protection;

			if (*entry != sought)
				continue;
			if (!VirtualProtect(entry, sizeof(*entry), PAGE_READWRITE, &protection))
				continue;
			*entry = (FARPROC)(void *)find;
			VirtualProtect(entry, sizeof(*entry), protection, &protection);
		}
	}
}

BOOL WINAPI DllMain(HINSTANCE instance, DWORD reason, LPVOID reserved)
{
	(void)instance;
	(void)reserved;
	if (reason == DLL_PROCESS_ATTACH)
		replace((BYTE *)GetModuleHandleW(NULL));
	return TRUE;
}
