/*
 * A stand-in for the kernel driver of both protocols, for tests under Wine. It moves bytes as the driver does: reads and
 * receives wait and can be cancelled, blocks are commands, control codes are METHOD_BUFFERED. What a test wants of it comes
 * through a second device (rig.h), and every verdict is checked against the numbers in facts.h.
 */
#include "state.h"

#ifndef KEXT_VERSION
#define KEXT_VERSION 2, 1, 1, 0
#endif

#define TICK_MS 5 /* how often the thread looks for what is due */

/* The kernel has it; this header only declares its Nt twin's relatives. */
NTSTATUS NTAPI ZwWaitForSingleObject(HANDLE object, BOOLEAN alertable, PLARGE_INTEGER timeout);

struct state state;

static const struct rig_config fresh = {.version = {KEXT_VERSION}, .timeout_ms = 500};
static UNICODE_STRING kext_name, kext_link, rig_name, rig_link;
static DEVICE_OBJECT *kext_device, *rig_device;
static volatile LONG unloading;
static HANDLE ticker;
static ULONG ticks; /* of the thread, which alone changes it */

void copy(void *to, const void *from, SIZE_T length)
{
	UCHAR *t = to;
	const UCHAR *f = from;

	while (length--)
		*t++ = *f++;
}

ULONGLONG number(const UCHAR *from, ULONG bytes)
{
	ULONGLONG n = 0;

	while (bytes--)
		n = n << 8 | from[bytes];
	return n;
}

struct chunk *new_chunk(ULONGLONG id, const UCHAR *data, ULONG length)
{
	struct chunk *c = ExAllocatePool(NonPagedPool, sizeof(*c) + length);

	if (c) {
		c->id = id;
		c->length = length;
		c->taken = 0;
		copy(c->data, data, length);
	}
	return c;
}

void free_chunks(LIST_ENTRY *list)
{
	while (!IsListEmpty(list))
		ExFreePool(CONTAINING_RECORD(RemoveHeadList(list), struct chunk, link));
}

void complete(IRP *irp, NTSTATUS status, ULONG_PTR length)
{
	irp->IoStatus.Status = status;
	irp->IoStatus.Information = length;
	IoCompleteRequest(irp, IO_NO_INCREMENT);
}

/* take_stream moves bytes of the stream into a reader's buffer. The lock is held. */
static ULONG take_stream(UCHAR *to, ULONG room)
{
	ULONG n = 0;

	if (state.config.max_read && room > state.config.max_read)
		room = state.config.max_read;
	while (n < room && !IsListEmpty(&state.stream)) {
		struct chunk *c = CONTAINING_RECORD(state.stream.Flink, struct chunk, link);
		ULONG part = min(c->length - c->taken, room - n);

		copy(to + n, c->data + c->taken, part);
		n += part;
		c->taken += part;
		if (c->taken == c->length) {
			RemoveEntryList(&c->link);
			ExFreePool(c);
		}
	}
	return n;
}

/* take_request moves the next request into a receiver's buffer and keeps its packet. The lock is held. */
static ULONG take_request(UCHAR *to, ULONG room)
{
	struct chunk *c;

	if (room < V1_REQUEST_SIZE || IsListEmpty(&state.requests))
		return 0;
	c = CONTAINING_RECORD(RemoveHeadList(&state.requests), struct chunk, link);
	copy(to, c->data, V1_REQUEST_SIZE);
	InsertTailList(&state.given, &c->link);
	return V1_REQUEST_SIZE;
}

/* answer says whether a waiting IRP can be completed now, and how. The lock is held. */
static BOOLEAN answer(IRP *irp, NTSTATUS *status, ULONG *length)
{
	IO_STACK_LOCATION *at = IoGetCurrentIrpStackLocation(irp);
	BOOLEAN reads = at->MajorFunction == IRP_MJ_READ;

	*length = 0;
	*status = STATUS_SUCCESS;
	if (state.config.gone) {
		*status = STATUS_DEVICE_REMOVED;
		return TRUE;
	}
	if (state.config.fail_reads) {
		state.config.fail_reads--;
		*status = STATUS_IO_DEVICE_ERROR;
		return TRUE;
	}
	if (reads)
		*length = take_stream(irp->AssociatedIrp.SystemBuffer, at->Parameters.Read.Length);
	else
		*length = take_request(irp->AssociatedIrp.SystemBuffer, at->Parameters.DeviceIoControl.OutputBufferLength);
	if (*length)
		return TRUE;
	if (state.down) {
		*status = STATUS_FILE_CLOSED;
		return TRUE;
	}
	return FALSE;
}

static void NTAPI on_cancel(DEVICE_OBJECT *device, IRP *irp)
{
	KIRQL irql;

	(void)device;
	IoReleaseCancelSpinLock(irp->CancelIrql);
	KeAcquireSpinLock(&state.lock, &irql);
	RemoveEntryList(&irp->Tail.Overlay.ListEntry);
	KeReleaseSpinLock(&state.lock, irql);
	complete(irp, STATUS_CANCELLED, 0);
}

/* next returns a waiting IRP that can be completed, with its completion. A late receive of v1 is one, too. */
static IRP *next(LIST_ENTRY *list, BOOLEAN timed, NTSTATUS *status, ULONG *length)
{
	LIST_ENTRY *e, *following;

	for (e = list->Flink; e != list; e = following) {
		IRP *irp = CONTAINING_RECORD(e, IRP, Tail.Overlay.ListEntry);
		ULONG since = ticks - (ULONG)(ULONG_PTR)irp->Tail.Overlay.DriverContext[0];

		following = e->Flink;
		if (!IoSetCancelRoutine(irp, NULL))
			continue; /* it is being cancelled, and its routine waits for the lock */
		if (!answer(irp, status, length)) {
			if (!timed || since * TICK_MS < state.config.timeout_ms) {
				IoSetCancelRoutine(irp, on_cancel);
				/* Cancelled in between, it found no routine to call. */
				if (!irp->Cancel || !IoSetCancelRoutine(irp, NULL))
					continue;
				*status = STATUS_CANCELLED;
			} else {
				*status = STATUS_SUCCESS; /* nothing pending: 0 bytes */
			}
		}
		RemoveEntryList(e);
		return irp;
	}
	return NULL;
}

void pump(void)
{
	for (;;) {
		KIRQL irql;
		NTSTATUS status;
		ULONG length;
		IRP *irp;

		KeAcquireSpinLock(&state.lock, &irql);
		irp = next(&state.reads, FALSE, &status, &length);
		if (!irp)
			irp = next(&state.receives, TRUE, &status, &length);
		KeReleaseSpinLock(&state.lock, irql);
		if (!irp)
			return;
		complete(irp, status, length);
	}
}

/* wait completes an IRP now, or when there is something for it. */
static NTSTATUS wait(IRP *irp, LIST_ENTRY *list)
{
	KIRQL irql;
	NTSTATUS status;
	ULONG length;

	KeAcquireSpinLock(&state.lock, &irql);
	/* Whatever is delayed is given out by the thread. */
	if (IsListEmpty(list) && !state.config.delay_ms && answer(irp, &status, &length)) {
		KeReleaseSpinLock(&state.lock, irql);
		complete(irp, status, length);
		return status;
	}
	IoMarkIrpPending(irp);
	irp->Tail.Overlay.DriverContext[0] = (void *)(ULONG_PTR)ticks;
	InsertTailList(list, &irp->Tail.Overlay.ListEntry);
	IoSetCancelRoutine(irp, on_cancel);
	if (irp->Cancel && IoSetCancelRoutine(irp, NULL)) {
		RemoveEntryList(&irp->Tail.Overlay.ListEntry);
		KeReleaseSpinLock(&state.lock, irql);
		complete(irp, STATUS_CANCELLED, 0);
		return STATUS_PENDING;
	}
	KeReleaseSpinLock(&state.lock, irql);
	return STATUS_PENDING;
}

/* tick is the driver's thread: it gives out what was delayed, and ends receives that waited long enough. */
static void NTAPI tick(void *unused)
{
	(void)unused;
	while (!unloading) {
		LARGE_INTEGER pause;
		ULONG ms = state.config.delay_ms ? state.config.delay_ms : TICK_MS;

		pause.QuadPart = -(LONGLONG)ms * 10000;
		KeDelayExecutionThread(KernelMode, FALSE, &pause);
		ticks += (ms + TICK_MS - 1) / TICK_MS;
		pump();
	}
	PsTerminateSystemThread(STATUS_SUCCESS);
}

static NTSTATUS NTAPI on_create(DEVICE_OBJECT *device, IRP *irp)
{
	KIRQL irql;
	NTSTATUS status = STATUS_SUCCESS;

	KeAcquireSpinLock(&state.lock, &irql);
	if (device == kext_device) {
		if (state.config.gone) {
			status = STATUS_DEVICE_REMOVED;
		} else {
			state.down = FALSE;
			state.report.opened++;
		}
	}
	KeReleaseSpinLock(&state.lock, irql);
	complete(irp, status, 0);
	return status;
}

static NTSTATUS NTAPI on_close(DEVICE_OBJECT *device, IRP *irp)
{
	KIRQL irql;

	KeAcquireSpinLock(&state.lock, &irql);
	if (device == kext_device)
		state.report.closed++;
	KeReleaseSpinLock(&state.lock, irql);
	complete(irp, STATUS_SUCCESS, 0);
	return STATUS_SUCCESS;
}

static NTSTATUS NTAPI on_cleanup(DEVICE_OBJECT *device, IRP *irp)
{
	(void)device;
	complete(irp, STATUS_SUCCESS, 0);
	return STATUS_SUCCESS;
}

static NTSTATUS NTAPI on_read(DEVICE_OBJECT *device, IRP *irp)
{
	if (device != kext_device || !IoGetCurrentIrpStackLocation(irp)->Parameters.Read.Length) {
		complete(irp, STATUS_INVALID_PARAMETER, 0);
		return STATUS_INVALID_PARAMETER;
	}
	return wait(irp, &state.reads);
}

static NTSTATUS NTAPI on_write(DEVICE_OBJECT *device, IRP *irp)
{
	ULONG length = IoGetCurrentIrpStackLocation(irp)->Parameters.Write.Length;
	NTSTATUS status = STATUS_SUCCESS;
	KIRQL irql;

	KeAcquireSpinLock(&state.lock, &irql);
	if (state.config.gone) {
		status = STATUS_DEVICE_REMOVED;
	} else if (state.config.fail_writes) {
		state.config.fail_writes--;
		status = STATUS_IO_DEVICE_ERROR;
	} else if (device != kext_device || !check_block(irp->AssociatedIrp.SystemBuffer, length)) {
		status = STATUS_INVALID_PARAMETER;
	}
	KeReleaseSpinLock(&state.lock, irql);
	pump();
	complete(irp, status, status == STATUS_SUCCESS ? length : 0);
	return status;
}

/* payload gives out the packet of a request that was received. The lock is held. */
static ULONG payload(ULONGLONG id, UCHAR *to, ULONG room)
{
	LIST_ENTRY *e;

	for (e = state.given.Flink; e != &state.given; e = e->Flink) {
		struct chunk *c = CONTAINING_RECORD(e, struct chunk, link);

		if (c->id == id) {
			ULONG length = min(c->length - V1_REQUEST_SIZE, room);

			copy(to, c->data + V1_REQUEST_SIZE, length);
			return length;
		}
	}
	return 0;
}

/* stats gives out what fits of the statistics, whole entries only. The lock is held. */
static ULONG stats(UCHAR *to, ULONG room)
{
	ULONG n = 0;

	while (n + V1_STAT_SIZE <= room && !IsListEmpty(&state.stats)) {
		struct chunk *c = CONTAINING_RECORD(RemoveHeadList(&state.stats), struct chunk, link);

		copy(to + n, c->data, V1_STAT_SIZE);
		n += V1_STAT_SIZE;
		ExFreePool(c);
	}
	return n;
}

/* obey carries out a control code of the driver but for a receive. The lock is held. */
static NTSTATUS obey(ULONG function, IRP *irp, ULONG_PTR *length)
{
	IO_STACK_LOCATION *at = IoGetCurrentIrpStackLocation(irp);
	ULONG in = at->Parameters.DeviceIoControl.InputBufferLength;
	ULONG out = at->Parameters.DeviceIoControl.OutputBufferLength;
	UCHAR *buffer = irp->AssociatedIrp.SystemBuffer;

	if (state.config.gone)
		return STATUS_DEVICE_REMOVED;
	if (state.config.fail_codes) {
		state.config.fail_codes--;
		return STATUS_IO_DEVICE_ERROR;
	}
	if (!check_code(function, buffer, in, out))
		return STATUS_INVALID_PARAMETER;
	switch (function) {
	case V1_VERSION:
		copy(buffer, state.config.version, sizeof(state.config.version));
		*length = sizeof(state.config.version);
		break;
	case V1_SHUTDOWN:
		state.down = TRUE;
		state.report.shutdowns++;
		break;
	case V1_PAYLOAD:
		*length = payload(number(buffer, 4), buffer, min(out, (ULONG)number(buffer + 4, 4)));
		break;
	case V1_STATS:
		*length = stats(buffer, out);
		break;
	}
	return STATUS_SUCCESS;
}

static NTSTATUS NTAPI on_control(DEVICE_OBJECT *device, IRP *irp)
{
	IO_STACK_LOCATION *at = IoGetCurrentIrpStackLocation(irp);
	ULONG code = at->Parameters.DeviceIoControl.IoControlCode, function = code >> 2 & 0xfff;
	ULONG_PTR length = 0;
	NTSTATUS status = STATUS_NOT_IMPLEMENTED;

	if (device == rig_device) {
		status = rig_control(irp, &length);
	} else if (code == KEXT_CODE(V1_RECEIVE)) {
		if (at->Parameters.DeviceIoControl.OutputBufferLength >= V1_REQUEST_SIZE)
			return wait(irp, &state.receives);
		status = STATUS_BUFFER_TOO_SMALL;
	} else if (code == KEXT_CODE(function) && function >= V1_VERSION && function <= V1_STATS) {
		KIRQL irql;

		KeAcquireSpinLock(&state.lock, &irql);
		status = obey(function, irp, &length);
		KeReleaseSpinLock(&state.lock, irql);
	}
	pump();
	complete(irp, status, length);
	return status;
}

static void wide(UNICODE_STRING *to, const WCHAR *from)
{
	USHORT n = 0;

	while (from[n])
		n++;
	to->Buffer = (WCHAR *)from;
	to->Length = n * sizeof(WCHAR);
	to->MaximumLength = to->Length + sizeof(WCHAR);
}

static void NTAPI on_unload(DRIVER_OBJECT *driver)
{
	(void)driver;
	unloading = TRUE;
	ZwWaitForSingleObject(ticker, FALSE, NULL);
	ZwClose(ticker);
	IoDeleteSymbolicLink(&kext_link);
	IoDeleteSymbolicLink(&rig_link);
	IoDeleteDevice(kext_device);
	IoDeleteDevice(rig_device);
}

static NTSTATUS add_device(DRIVER_OBJECT *driver, UNICODE_STRING *name, UNICODE_STRING *link, DEVICE_OBJECT **device)
{
	NTSTATUS status = IoCreateDevice(driver, 0, name, FILE_DEVICE_UNKNOWN, 0, FALSE, device);

	if (!NT_SUCCESS(status))
		return status;
	(*device)->Flags |= DO_BUFFERED_IO;
	(*device)->Flags &= ~DO_DEVICE_INITIALIZING;
	status = IoCreateSymbolicLink(link, name);
	if (!NT_SUCCESS(status))
		IoDeleteDevice(*device);
	return status;
}

NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry)
{
	LIST_ENTRY *lists[] = {&state.stream, &state.requests, &state.given, &state.answers, &state.stats, &state.records,
		&state.expectations, &state.reads, &state.receives};
	NTSTATUS status;
	ULONG i;

	(void)registry;
	KeInitializeSpinLock(&state.lock);
	for (i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		InitializeListHead(lists[i]);
	copy(&state.config, &fresh, sizeof(fresh));
	wide(&kext_name, L"\\Device\\PortmasterKext");
	wide(&kext_link, L"\\DosDevices\\PortmasterKext");
	wide(&rig_name, L"\\Device\\WeirRig");
	wide(&rig_link, L"\\DosDevices\\WeirRig");
	driver->MajorFunction[IRP_MJ_CREATE] = on_create;
	driver->MajorFunction[IRP_MJ_CLOSE] = on_close;
	driver->MajorFunction[IRP_MJ_CLEANUP] = on_cleanup;
	driver->MajorFunction[IRP_MJ_READ] = on_read;
	driver->MajorFunction[IRP_MJ_WRITE] = on_write;
	driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = on_control;
	driver->DriverUnload = on_unload;
	status = add_device(driver, &kext_name, &kext_link, &kext_device);
	if (!NT_SUCCESS(status))
		return status;
	status = add_device(driver, &rig_name, &rig_link, &rig_device);
	if (NT_SUCCESS(status))
		status = PsCreateSystemThread(&ticker, THREAD_ALL_ACCESS, NULL, NULL, NULL, tick, NULL);
	if (!NT_SUCCESS(status)) {
		IoDeleteSymbolicLink(&kext_link);
		IoDeleteDevice(kext_device);
	}
	return status;
}
