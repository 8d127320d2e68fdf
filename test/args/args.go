// Package args has the flags of the compiled tests that run beside the unit tests:
// those of test/director, and those of the top level that carry a build tag.
//
// The make targets, test/e2e and test/bench give them. It only reads the command line.
package args

import "flag"

var (
	Binary  = flag.String("binary", "", "the controller's `file`")
	Install = flag.String("install", "../../install", "the `folder` install/")
	Size    = flag.String("size", "", "how much of everything a drill or a benchmark has: `long or short`")
	Control = flag.String("control", "", "`URL` that steers the control plane (test/cluster)")
	Pods    = flag.Int("pods", 0, "`number` of pods that the control plane's namespace big has")
	Out     = flag.String("out", "", "`file` for what is measured")
	Moby    = flag.String("moby", "", "the `file` of test/peers/moby")
	Proxy   = flag.String("kube-proxy", "", "the `file` of kube-proxy")
	CRDs    = flag.String("crds", "", "the `folder` of the Gateway API's CRDs")
	User    = flag.Uint("user", 0, "the `id` of the user and group that the controller runs as, with CAP_NET_ADMIN and CAP_NET_RAW; 0 is root, with all")
	System  = flag.String("system", "", "a `tar` of the Debian whose dpkg and systemd the packages meet")
	Debs    = flag.String("packages", "", "the `folder` of the packages, old/*.deb and new/*.deb")
	Native  = flag.Bool("native", false, "the tests run on the control plane's own machine")

	Operations = flag.Int("operations", 5000, "`number` of operations of a soak")
	Duration   = flag.Duration("duration", 0, "longest `time` of a soak; 0: as long as the operations take")
	Seed       = flag.Uint64("seed", 1, "`number` from which a soak draws its operations")
)
