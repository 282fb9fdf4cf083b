// Package kext intercepts the packets of a Windows host with its kernel driver, whichever version it has: it opens the driver's
// device, reads the version, and lets package kextv1 or kextv2 do the rest.
//
//	source, err := kext.New(kext.Config{SplitTunnel: kext.SplitNeeded})
//	if err != nil {
//		return err
//	}
//	return source.Run(ctx, handler, func() { log.Print("intercepting") })
//
// The driver's service must be installed and run, and the caller must be an administrator; both are said by an error that
// wraps intercept.ErrNotInterceptable. On other systems than Windows, New returns an error that wraps errors.ErrUnsupported,
// unless Config.Open is set.
//
// # Split tunnel
//
// Drivers before 2.1.0 do not know it, and what they do with a verdict that they do not know is not ours to try out. A Source
// whose Config says that the split tunnel is needed does not run with such a driver; see CheckSplitTunnel.
package kext
