// A failure is logged when it begins and when its text changes, and its end is
// logged once. In between nothing is logged.
//
// Used by kube*.go, conflict_watch.go, host.go, snapshot.go, reconcile*.go and
// http.go. It decides when to log; the caller writes the message. It starts
// no goroutine and reads no clock.

package main

// failureLog remembers the failure of one thing that was logged last. The zero
// value is for a thing that has not failed.
type failureLog struct{ text string }

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
	begins = text != "" && text != f.text
	ends = text == "" && f.text != ""
	f.text = text
	return begins, ends
}
