package etw

import (
	"cmp"
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Structures of evntrace.h, evntcons.h and tdh.h, for 64 bits.
type (
	wnodeHeader struct {
		bufferSize, providerID uint32
		historicalContext      uint64
		timeStamp              int64
		guid                   windows.GUID
		clientContext, flags   uint32
	}
	eventTraceProperties struct {
		wnode                                                       wnodeHeader
		bufferSize, minimumBuffers, maximumBuffers, maximumFileSize uint32
		logFileMode, flushTimer, enableFlags                        uint32
		ageLimit                                                    int32
		numberOfBuffers, freeBuffers, eventsLost, buffersWritten    uint32
		logBuffersLost, realTimeBuffersLost                         uint32
		loggerThreadID                                              uintptr
		logFileNameOffset, loggerNameOffset                         uint32
	}
	eventDescriptor struct {
		id                              uint16
		version, channel, level, opcode uint8
		task                            uint16
		keyword                         uint64
	}
	eventHeader struct {
		size, headerType, flags, property uint16
		threadID, processID               uint32
		timeStamp                         int64
		providerID                        windows.GUID
		descriptor                        eventDescriptor
		processorTime                     uint64
		activityID                        windows.GUID
	}
	eventRecord struct {
		header                              eventHeader
		bufferContext                       uint32
		extendedDataCount, userDataLength   uint16
		extendedData, userData, userContext uintptr
	}
	eventTrace struct {
		size, fieldTypeFlags         uint16
		version                      uint32
		threadID, processID          uint32
		timeStamp                    int64
		guid                         windows.GUID
		clientContext, flags         uint32
		instanceID, parentInstanceID uint32
		parentGUID                   windows.GUID
		mofData                      uintptr
		mofLength, clientContext2    uint32
	}
	traceLogfileHeader struct {
		bufferSize, version, providerVersion, processors   uint32
		endTime                                            int64
		timerResolution, maximumFileSize, logMode, buffers uint32
		logInstanceGUID                                    windows.GUID
		loggerName, logFileName                            uintptr
		timeZone                                           windows.Timezoneinformation
		_                                                  uint32
		bootTime, perfFreq, startTime                      int64
		reservedFlags, buffersLost                         uint32
	}
	eventTraceLogfile struct {
		logFileName, loggerName       *uint16
		currentTime                   int64
		buffersRead, processTraceMode uint32
		currentEvent                  eventTrace
		logfileHeader                 traceLogfileHeader
		bufferCallback                uintptr
		bufferSize, filled, lost      uint32
		eventRecordCallback           uintptr
		isKernelTrace                 uint32
		context                       uintptr
	}
	propertyDataDescriptor struct {
		name                 uint64 // a pointer
		arrayIndex, reserved uint32
	}
)

// Constants of the same headers.
const (
	wnodeTracedGUID      = 0x00020000
	clockSystemTime      = 2
	modeRealTime         = 0x100
	processRealTime      = 0x00000100
	processEventRecord   = 0x10000000
	controlStop          = 1
	controlFlush         = 3
	enableProvider       = 1
	levelVerbose         = 5
	noArray              = ^uint32(0)
	invalidTrace         = ^uint64(0)
	ctxClosePending      = windows.Errno(7007) // ERROR_CTX_CLOSE_PENDING
	instanceNotFound     = windows.Errno(4201) // ERROR_WMI_INSTANCE_NOT_FOUND
	flushSeconds         = 1
	nameRoom             = 2 * (maxSession + 1) // bytes
	sessionBufferKB      = 64
	sessionMinimumBuffer = 4
)

// library is the functions of ETW.
type library struct {
	startTrace, controlTrace, enableTrace, openTrace, processTrace, closeTrace *windows.LazyProc
	register, write, unregister                                                *windows.LazyProc
	propertySize, property                                                     *windows.LazyProc
}

// load finds the functions, in the system's libraries unless a name replaces them.
func load(name string) (*library, error) {
	open := windows.NewLazySystemDLL
	if name != "" {
		open = windows.NewLazyDLL
	}
	advapi, tdh := open(cmp.Or(name, "advapi32.dll")), open(cmp.Or(name, "tdh.dll"))
	l := &library{}
	for _, f := range []struct {
		to   **windows.LazyProc
		from *windows.LazyDLL
		name string
	}{
		{&l.startTrace, advapi, "StartTraceW"}, {&l.controlTrace, advapi, "ControlTraceW"},
		{&l.enableTrace, advapi, "EnableTraceEx2"}, {&l.openTrace, advapi, "OpenTraceW"},
		{&l.processTrace, advapi, "ProcessTrace"}, {&l.closeTrace, advapi, "CloseTrace"},
		{&l.register, advapi, "EventRegister"}, {&l.write, advapi, "EventWrite"}, {&l.unregister, advapi, "EventUnregister"},
		{&l.propertySize, tdh, "TdhGetPropertySize"}, {&l.property, tdh, "TdhGetProperty"},
	} {
		*f.to = f.from.NewProc(f.name)
		if err := (*f.to).Find(); err != nil {
			return nil, fmt.Errorf("etw: %w", err)
		}
	}
	return l, nil
}

// call calls a function that returns its error.
//
//go:uintptrescapes
func call(p *windows.LazyProc, args ...uintptr) uintptr {
	r, _, _ := p.Call(args...) //nolint:errcheck // what it returns counts; the thread's last error means nothing then
	return r
}

// result is what most functions of ETW return.
func result(what string, r uintptr) error {
	if r == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", what, windows.Errno(r))
}

// session is EVENT_TRACE_PROPERTIES with room for the name behind.
type session struct {
	properties eventTraceProperties
	name       [nameRoom]byte
}

func newSession(id windows.GUID) *session {
	s := &session{}
	p := &s.properties
	p.wnode = wnodeHeader{bufferSize: uint32(unsafe.Sizeof(*s)), guid: id, clientContext: clockSystemTime, flags: wnodeTracedGUID}
	p.bufferSize, p.minimumBuffers, p.logFileMode, p.flushTimer = sessionBufferKB, sessionMinimumBuffer, modeRealTime, flushSeconds
	p.loggerNameOffset = uint32(unsafe.Offsetof(s.name))
	return s
}

// get reads a text property of an event; "" if it has none that can be read.
func (l *library) get(r *eventRecord, name *uint16) string {
	d := propertyDataDescriptor{name: uint64(uintptr(unsafe.Pointer(name))), arrayIndex: noArray}
	var size uint32
	e := call(l.propertySize, uintptr(unsafe.Pointer(r)), 0, 0, 1, uintptr(unsafe.Pointer(&d)), uintptr(unsafe.Pointer(&size)))
	if e != 0 || size == 0 || size > maxProperty {
		return ""
	}
	b := make([]byte, size)
	e = call(l.property, uintptr(unsafe.Pointer(r)), 0, 0, 1, uintptr(unsafe.Pointer(&d)), uintptr(size), uintptr(unsafe.Pointer(&b[0])))
	if e != 0 {
		return ""
	}
	return text(b)
}
