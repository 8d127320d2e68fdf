// Package sizes has what a connection costs in the kernel's memory and on the wire.
//
// test/scale multiplies these numbers; TestKernelScaleSizes in test/director measures
// each of them on a real kernel, and fails when one is wrong.
package sizes

const (
	// Connection is the memory of one connection in bytes: an object of the slab
	// cache ip_vs_conn, of which a page holds 12 (304 bytes each, aligned to cache
	// lines). A persistence template is one more.
	Connection = 4096.0 / 12

	// Bucket is a list head of the connection table.
	Bucket = 8

	// The sync protocol, version 1: struct ip_vs_sync_v4 behind struct
	// ip_vs_sync_mesg, as many as an MTU of 1500 bytes takes.
	syncConn    = 36
	syncHeader  = 8
	syncHeaders = 14 + 20 + 8 // Ethernet, IP, UDP
	syncConns   = (1500 - 20 - 8 - syncHeader) / syncConn

	// SyncEntry is what one message about one connection takes, headers included.
	SyncEntry = float64(syncConns*syncConn+syncHeader+syncHeaders) / syncConns

	// SyncBusy is the number of messages a second about a connection with packets all
	// the time: one after sync_refresh_period (10 s), and its repetition (sync_retries)
	// an eighth of that later. The period begins again with the repetition.
	SyncBusy = 2 / (10 + 10.0/8)

	// SyncShort is the number of messages about a TCP connection that is opened and
	// soon closed: established, and the client's FIN.
	SyncShort = 2
)
