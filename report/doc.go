// Package report writes for people what a Plan will do and what a load did: plain text, without colours, the same text for the same
// figures. Machines read the command's JSON instead.
package report
