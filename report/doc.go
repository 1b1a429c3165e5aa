// Package report writes for people what a Plan will do and what a load did: plain text, without colours, the same text for the same
// figures; a page with pictures ([Page], of what a [Recorder] saw); and a trace of every step ([Trace]). Machines read the command's JSON
// instead, which the page contains too.
package report
