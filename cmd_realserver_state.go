// What realserver remembers of a node: its VIPs, and what the settings were before.
//
// Used by cmd*.go. It is a file under /run, which a reboot removes together with the
// kernel's settings. A file that cannot be read stops the command before it changes anything.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// realserverState is the state file.
type realserverState struct {
	// Addresses are the VIPs of command lines that the node was prepared for, without
	// those undone.
	Addresses []VIPAddress `json:"addresses,omitempty"`
	// Files are the VIPs that each file listed last, by the file's path.
	Files map[string][]VIPAddress `json:"files,omitempty"`
	// Sysctls are the settings of the devices that were changed.
	Sysctls []savedSysctl `json:"sysctls,omitempty"`
	// Devices and Ports are the ends of tunnels.
	Devices []savedDevice `json:"devices,omitempty"`
	Ports   []savedPort   `json:"ports,omitempty"`
}

// prepared are the VIPs that the node was prepared for, each once.
func (s *realserverState) prepared() []VIPAddress {
	all := slices.Clone(s.Addresses)
	for _, listed := range s.Files {
		all = including(all, listed...)
	}
	sortBy(all, VIPAddress.Compare)
	return all
}

// keep leaves those VIPs that stay.
func (s *realserverState) keep(stays func(VIPAddress) bool) {
	goes := func(v VIPAddress) bool { return !stays(v) }
	s.Addresses = slices.DeleteFunc(s.Addresses, goes)
	for file, listed := range s.Files {
		s.list(file, slices.DeleteFunc(listed, goes))
	}
}

// list notes what a file lists.
func (s *realserverState) list(file string, listed []VIPAddress) {
	if len(listed) == 0 {
		delete(s.Files, file)
		return
	}
	if s.Files == nil {
		s.Files = make(map[string][]VIPAddress)
	}
	s.Files[file] = listed
}

// savedSysctl is a setting before its first change and after.
type savedSysctl struct {
	Key    string `json:"key"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// lock lets one run of the command at a time change the node.
func (rs *realserver) lock() (release func(), err error) {
	if err = os.MkdirAll(filepath.Dir(rs.statePath), 0o755); err == nil {
		release, err = lockFile{path: rs.statePath}.guard()
	}
	return release, wrap("save state", err)
}

// load reads the state file; a missing one is empty.
func (rs *realserver) load() error {
	b, err := readRegular(rs.statePath, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	rs.state, err = decodeRealserverState(b)
	return wrap("read state "+rs.statePath, err)
}

// decodeRealserverState reads what save writes. It refuses a setting that the command
// does not change, because undo would write to it.
func decodeRealserverState(b []byte) (s realserverState, err error) {
	if err := json.Unmarshal(b, &s); err != nil {
		return s, err
	}
	settings := slices.Clone(s.Sysctls)
	for _, d := range s.Devices {
		settings = append(settings, d.Sysctls...)
	}
	for _, o := range settings {
		if o.Key != confKey(path.Base(path.Dir(o.Key)), path.Base(o.Key)) {
			return s, fmt.Errorf("%q is not a setting that this command changes", shorten(o.Key, quotedText))
		}
	}
	for _, listed := range s.Files { // which are removed when they leave the file
		for _, v := range listed {
			if err := notVIP(v.Address); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

// save replaces the state file, or removes it when there is nothing to undo.
func (rs *realserver) save() error {
	if s := &rs.state; len(s.Addresses)+len(s.Files)+len(s.Sysctls)+len(s.Devices)+len(s.Ports) == 0 {
		return wrap("remove state", removeFile(rs.statePath))
	}
	b, err := json.MarshalIndent(rs.state, "", " ")
	if err == nil {
		err = writeFileAtomic(rs.statePath, append(b, '\n'), 0o600)
	}
	return wrap("save state", err)
}
