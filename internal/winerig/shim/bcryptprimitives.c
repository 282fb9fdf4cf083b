/*
 * The one function of bcryptprimitives.dll that Go programs need to start, and which Wine before 10 lacks: random bytes.
 * RtlGenRandom is exported under this number by advapi32.
 */
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

BOOL WINAPI DllMain(HINSTANCE instance, DWORD reason, LPVOID reserved)
{
	(void)instance;
	(void)reason;
	(void)reserved;
	return TRUE;
}
