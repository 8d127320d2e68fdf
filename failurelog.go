// A failure is logged when it begins and when its text changes, and its end is
// logged once. In between nothing is logged.
//
// Used by kube*.go, conflict*.go, health*.go, state_saved.go, host.go, snapshot.go,
// reconcile*.go, http*.go, cmd*.go and main.go. It decides when to log; the caller
// writes the message. It starts no goroutine and reads no clock.

package main

import "regexp"

// failureLog remembers the failure of one thing that was logged last. The zero
// value is for a thing that has not failed.
type failureLog struct{ text string }

// passingText is what differs between two reports of one failure: the local end of a
// connection, whose port is another one at each attempt ("read tcp 10.0.0.1:53412->").
var passingText = regexp.MustCompile(`\S+:\d+->`)

// note takes the present state, err, nil for none. begins means that err is new
// and has to be logged; ends that the failure which was logged is over.
func (f *failureLog) note(err error) (begins, ends bool) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	return f.noteText(text)
}

// noteText is note for a failure that is known by text; "" for none.
func (f *failureLog) noteText(text string) (begins, ends bool) {
	text = passingText.ReplaceAllLiteralString(text, "")
	begins = text != "" && text != f.text
	ends = text == "" && f.text != ""
	f.text = text
	return begins, ends
}
