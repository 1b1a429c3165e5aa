package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// encode is v as compact JSON, with names as they are (no \u003c).
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(escaped{&b})
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode the result: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// escaped writes JSON in which characters that do not print are escapes: JSON asks for that below U+0020 only, and a terminal that is shown the
// text also takes orders from U+009B, and turns lines around after U+202E. Every Write has whole characters.
type escaped struct{ w io.Writer }

func (e escaped) Write(p []byte) (int, error) {
	if bytes.IndexFunc(p, doesNotPrint) < 0 {
		return e.w.Write(p)
	}
	out := make([]byte, 0, len(p)+64)
	for _, r := range string(p) {
		switch hi, lo := utf16.EncodeRune(r); {
		case !doesNotPrint(r):
			out = utf8.AppendRune(out, r)
		case hi != utf8.RuneError:
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	if _, err := e.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func doesNotPrint(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }

// writeJSON writes v as one line.
func writeJSON(w io.Writer, v any) error {
	b, err := encode(v)
	if err != nil {
		return err
	}
	return write(w, string(b)+"\n")
}

// writeJSONWithList writes the object v as one line, with one more member: a list that is encoded element by element, so that it never
// exists as a whole.
func writeJSONWithList[T any](w io.Writer, v any, name string, list iter.Seq[T]) error {
	head, err := encode(v)
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(w, 64<<10)
	fmt.Fprintf(b, "%s,%q:[", bytes.TrimSuffix(head, []byte("}")), name) // a bufio.Writer keeps its error until Flush
	enc := json.NewEncoder(escaped{b})                                   // puts a line end after each element
	enc.SetEscapeHTML(false)
	separator := ""
	for element := range list {
		fmt.Fprint(b, separator)
		if err := enc.Encode(element); err != nil {
			return outputError(err)
		}
		separator = ","
	}
	fmt.Fprintln(b, "]}")
	return outputError(b.Flush())
}

// write puts text on stdout.
func write(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return outputError(err)
}

func outputError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write the result: %w", err)
}
