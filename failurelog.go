// A failure is logged when it begins and when its text changes, and its end is
// logged once: silence in between.
//
// Used by kube*.go, conflict_watch.go, host.go, snapshot.go, reconcile*.go and
// http.go. It decides when to log; the caller has the words. It starts no
// goroutine and reads no clock.

package main

// failureLog remembers the failure of one thing that was logged last. The zero
// value is for a thing that has not failed.
type failureLog struct{ text string }

// note takes the present state, err, nil for none. begins means that err is news
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
