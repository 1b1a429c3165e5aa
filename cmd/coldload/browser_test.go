//go:build browser

package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coldload/coldload/internal/synth"
)

// These tests need Chromium, and fail without it: .ci/browser runs them.

var (
	shotsDir  = flag.String("screenshots", "", "folder for the screenshots of the pages")
	shotsPage = flag.String("page", "", "also a page of one's own, to look at")
)

// views are how people look at a page.
var views = []struct {
	name          string
	width, height int
	scheme        string
}{
	{"light", 1100, 900, "light"},
	{"dark", 1100, 900, "dark"},
	{"narrow", 360, 740, "light"},
}

// TestBrowserPages opens the pages of loads that succeed and of some that fail, as people would.
func TestBrowserPages(t *testing.T) {
	dir := t.TempDir()
	checkpoint := filepath.Join(dir, "tiny-moe")
	if _, err := synth.Write(t.Context(), checkpoint, synth.Options{Model: "tiny-moe", Layers: 1}); err != nil {
		t.Fatal(err)
	}
	pages := map[string]string{}
	for name, c := range map[string]struct {
		code int
		args []string
	}{
		"load":    {exitDone, []string{"load", checkpoint}},
		"pack":    {exitDone, []string{"pack", checkpoint, filepath.Join(dir, "packed")}},
		"tiny":    {exitDone, []string{"load", fixture(gptqFixture), "--to", "discard"}},
		"failed":  {exitFailed, []string{"load", broken(t)}},
		"refused": {exitRefused, []string{"load", damaged(t)}},
	} {
		page := filepath.Join(dir, name+".html")
		if r := command(t, append(c.args, "--report", page)...); r.code != c.code {
			t.Fatalf("%s: exit code %d\n%s", name, r.code, r.err)
		}
		pages[name] = page
	}
	if *shotsPage != "" {
		pages = map[string]string{strings.TrimSuffix(filepath.Base(*shotsPage), ".html"): *shotsPage}
	}
	b := startBrowser(t)
	for name, page := range pages {
		for _, v := range views {
			t.Run(name+"/"+v.name, func(t *testing.T) {
				b.view(v.width, v.height, v.scheme)
				b.open(page)
				b.checkPage(t, page, v.width)
				b.screenshot(t, name+"-"+v.name+".png", "document.documentElement.scrollHeight")
			})
		}
		if *shotsPage != "" {
			b.view(900, 900, "light")
			b.open(page)
			b.screenshot(t, name+"-top.png", `document.getElementById("shares").getBoundingClientRect().top - 24`)
		}
	}
}

// checkPage looks at what the browser made of the page.
func (b *browser) checkPage(t *testing.T, page string, width int) {
	t.Helper()
	for _, e := range b.events {
		switch e.Method {
		case "Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled":
			t.Errorf("the page said something: %s", e.Params)
		case "Network.requestWillBeSent":
			if want := "file://" + page; !strings.Contains(string(e.Params), `"url":"`+want+`"`) {
				t.Errorf("the page asked for something else than itself: %s", e.Params)
			}
		}
	}
	var requests int
	for _, e := range b.events {
		if e.Method == "Network.requestWillBeSent" {
			requests++
		}
	}
	if requests != 1 {
		t.Errorf("%d requests, want the one for the page: the browser's events were not seen", requests)
	}
	for what, script := range map[string]string{
		"the page is wider than the window":             `document.documentElement.scrollWidth > window.innerWidth`,
		"the style does not count":                      `getComputedStyle(document.querySelector(".row")).display != "grid"`,
		"the result is no JSON":                         `typeof JSON.parse(document.getElementById("coldload-result").textContent).seconds != "number"`,
		"the timeline is no JSON":                       `!Array.isArray(JSON.parse(document.getElementById("coldload-timeline").textContent).lanes)`,
		"a picture has no text":                         `[...document.querySelectorAll("svg")].some(s => !s.getAttribute("aria-label") || !s.querySelector("title"))`,
		"a picture has no size":                         `[...document.querySelectorAll("svg")].some(s => s.getBoundingClientRect().width < 50 || s.getBoundingClientRect().height < 5)`,
		"a table that scrolls cannot be reached":        `[...document.querySelectorAll(".scroll")].some(s => s.tabIndex != 0)`,
		"a heading is missing":                          `document.querySelectorAll("h1").length != 1 || document.querySelectorAll("h2").length < 5`,
		"a scheme makes text as dark as what is behind": `getComputedStyle(document.body).color == getComputedStyle(document.body).backgroundColor`,
	} {
		if b.eval(t, script) {
			t.Errorf("%s (at %d pixels)", what, width)
		}
	}
}

// browser is a Chromium without a window, driven through the pipes of its DevTools protocol.
type browser struct {
	t       *testing.T
	in      *os.File
	out     *bufio.Reader
	session string
	last    int
	events  []message // since the last open
}

type message struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Fatal("no Chromium is installed (on Debian: apt-get install chromium)")
	}
	theirIn, ourIn := pipes(t)
	ourOut, theirOut := pipes(t)
	cmd := exec.CommandContext(t.Context(), path, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
		"--user-data-dir="+t.TempDir(), "--no-first-run", "--disable-background-networking", "about:blank")
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // 3 and 4, as the protocol has it
	var errors bytes.Buffer
	cmd.Stderr, cmd.WaitDelay = &errors, 5*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = theirIn.Close(), theirOut.Close()
	b := &browser{t: t, in: ourIn, out: bufio.NewReader(ourOut)}
	t.Cleanup(func() {
		b.session = ""
		b.send("Browser.close", nil)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the browser said: %s", errors.String())
		}
	})
	var target struct {
		ID string `json:"targetId"`
	}
	unmarshal(t, b.call("Target.createTarget", map[string]any{"url": "about:blank"}), &target)
	var session struct {
		ID string `json:"sessionId"`
	}
	unmarshal(t, b.call("Target.attachToTarget", map[string]any{"targetId": target.ID, "flatten": true}), &session)
	b.session = session.ID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.call(domain+".enable", nil)
	}
	return b
}

func pipes(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

func unmarshal(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
}

func (b *browser) send(method string, params any) {
	b.last++
	m := map[string]any{"id": b.last, "method": method}
	if params != nil {
		m["params"] = params
	}
	if b.session != "" {
		m["sessionId"] = b.session
	}
	text, err := json.Marshal(m)
	if err == nil {
		_, err = b.in.Write(append(text, 0))
	}
	if err != nil {
		b.t.Errorf("to the browser: %v", err)
	}
}

// call sends a command and waits for its result.
func (b *browser) call(method string, params any) json.RawMessage {
	b.t.Helper()
	b.send(method, params)
	id := b.last
	for {
		if m := b.receive(); m.ID == id {
			if m.Error != nil {
				b.t.Fatalf("%s: %s", method, m.Error)
			}
			return m.Result
		}
	}
}

// receive takes one message, and keeps it when it is an event.
func (b *browser) receive() message {
	b.t.Helper()
	text, err := b.out.ReadBytes(0)
	if err != nil {
		b.t.Fatalf("from the browser: %v", err)
	}
	var m message
	unmarshal(b.t, bytes.TrimSuffix(text, []byte{0}), &m)
	if m.Method != "" {
		b.events = append(b.events, m)
	}
	return m
}

// open goes to a file and waits until it is there.
func (b *browser) open(path string) {
	b.t.Helper()
	b.call("Page.navigate", map[string]any{"url": "about:blank"})
	b.events = nil
	b.call("Page.navigate", map[string]any{"url": "file://" + path})
	for {
		for _, e := range b.events {
			if e.Method == "Page.loadEventFired" && b.at() == "file://"+path {
				return
			}
		}
		b.receive()
	}
}

func (b *browser) at() (url string) {
	var r struct {
		Result struct {
			Value string `json:"value"`
		} `json:"result"`
	}
	unmarshal(b.t, b.call("Runtime.evaluate", map[string]any{"expression": "location.href"}), &r)
	return r.Result.Value
}

// eval tells whether a condition holds in the page.
func (b *browser) eval(t *testing.T, script string) bool {
	t.Helper()
	var r struct {
		Result struct {
			Value bool `json:"value"`
		} `json:"result"`
		Exception json.RawMessage `json:"exceptionDetails"`
	}
	unmarshal(t, b.call("Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true}), &r)
	if r.Exception != nil {
		t.Errorf("%s: %s", script, r.Exception)
	}
	return r.Result.Value
}

// view sets the window and the scheme of colours.
func (b *browser) view(width, height int, scheme string) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": scheme}}})
}

// screenshot takes a picture of the page down to a line; without -screenshots it only looks whether there is one.
func (b *browser) screenshot(t *testing.T, name, bottom string) {
	t.Helper()
	var area struct {
		Result struct {
			Value []float64 `json:"value"`
		} `json:"result"`
	}
	unmarshal(t, b.call("Runtime.evaluate", map[string]any{"expression": "[window.innerWidth, " + bottom + "]", "returnByValue": true}), &area)
	if len(area.Result.Value) != 2 {
		t.Fatalf("no size of the page: %v", area)
	}
	clip := map[string]any{"x": 0, "y": 0, "width": area.Result.Value[0], "height": area.Result.Value[1], "scale": 1}
	var r struct {
		Data string `json:"data"`
	}
	unmarshal(t, b.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true, "clip": clip}), &r)
	png, err := base64.StdEncoding.DecodeString(r.Data)
	if err != nil || len(png) < 5000 {
		t.Fatalf("a screenshot of %d bytes: %v", len(png), err)
	}
	if *shotsDir == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(*shotsDir, name), png, 0o644); err != nil {
		t.Fatal(fmt.Errorf("keep the screenshot: %w", err))
	}
}
