package file

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// What Begin and Commit fail with, for errors.Is.
var (
	// ErrTarget: the target folder cannot be used. All errors of this kind are a *TargetError.
	ErrTarget = errors.New("target folder is not usable")
	// ErrTargetExists: something is there that is not to be replaced. An ErrTarget.
	ErrTargetExists = errors.New("target exists")
	// ErrLocked: another sink writes there now. An ErrTarget.
	ErrLocked = errors.New("target is being written by another process")
	// ErrAlreadyDone: the target is complete, and made by the same work. Nothing is to be done.
	ErrAlreadyDone = errors.New("target is complete already")
	// ErrIncomplete: Commit without every Slab.
	ErrIncomplete = errors.New("result is incomplete")
)

// TargetError says why a folder cannot be written to.
type TargetError struct {
	Path   string
	Err    error  // the reason: one of this package's sentinels, or the system's error
	Advice string // what to do; may be empty
}

func (e *TargetError) Error() string {
	s := e.Path + ": " + e.Err.Error()
	if e.Advice != "" {
		s += "; " + e.Advice
	}
	return s
}

// Is makes every TargetError an ErrTarget.
func (e *TargetError) Is(target error) bool { return target == ErrTarget }

// Unwrap is the reason.
func (e *TargetError) Unwrap() error { return e.Err }

// SpaceError says that the disk has not the room for the result. It is syscall.ENOSPC, and an ErrTarget when Begin found it.
type SpaceError struct {
	Dir        string
	Need, Free int64 // bytes
	Late       bool  // found while writing
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%s: not enough space: %d bytes (%.1f GB) are needed beyond what is there, %d (%.1f GB) are free; "+
		"make room or choose another folder", e.Dir, e.Need, float64(e.Need)/1e9, e.Free, float64(e.Free)/1e9)
}

// Is makes a SpaceError of Begin an ErrTarget.
func (e *SpaceError) Is(target error) bool { return target == ErrTarget && !e.Late }

// Unwrap is syscall.ENOSPC.
func (e *SpaceError) Unwrap() error { return syscall.ENOSPC }

// unusable makes a TargetError of an error that comes from where the target lies, and leaves others as they are.
func unusable(path string, err error) error {
	advice := "choose a folder that can be written to"
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrTarget):
		return err
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG):
		advice = "check the path"
	default:
		return fmt.Errorf("file: %w", err)
	}
	return &TargetError{Path: path, Err: err, Advice: advice}
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
