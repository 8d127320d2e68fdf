package main

import (
	"strings"
	"testing"
)

// Several [[vip]] may share an address where their ports differ.
func TestParseSharedAddress(t *testing.T) {
	const first = "[[vip]]\nname = 'web'\naddresses = ['10.0.0.1', '10.0.0.3']\nports = [80, 443]\n"
	second := func(lines string) string { return first + "[[vip]]\nname = 'mail'\n" + lines }
	checkMistakes(t, []struct{ text, want string }{
		{second("addresses = ['10.0.0.1']\nports = [25, 443]"), `8: vip[1].ports: 443/tcp: VIP "web" (line 4) has the same port of the same address; want it in one of them`},
		{second("addresses = ['10.0.0.1']\nports = [443, 25, 80]"), `8: vip[1].ports: 80/tcp and 1 more: VIP "web" (line 4) has the same port of the same address; want it in one of them`},
		{second("addresses = ['10.0.0.2', '10.0.0.1']\nports = [25]\nannounce = 'arp'"), `9: vip[1].announce: is "arp", and VIP "web" (line 2) has "none"; want the same for all VIPs with address 10.0.0.1`},
		{second("addresses = ['10.0.0.1', '10.0.0.1']\nports = [25]"), `7: vip[1].addresses[1]: 10.0.0.1 is already an address of this VIP, want each address once`},
		{second("addresses = ['10.0.0.1']\nports = [25]\nreal_servers = [{ address = '10.0.0.3' }]\nselector = ''"), `9: vip[1].real_servers[0].address: 10.0.0.3 is an address of VIP "web" (line 3), want the real server's own address`},
	})
	for _, good := range []string{
		second("addresses = ['10.0.0.1']\nports = [25]"),
		second("addresses = ['10.0.0.3', '10.0.0.1']\nports = ['443/udp', 25]"),
		second("addresses = ['10.0.0.2']\nports = [80, 443]\nannounce = 'arp'"),
	} {
		cfg, err := ParseConfig("c.toml", []byte(good))
		if err != nil {
			t.Errorf("%s\n%v", good, err)
		} else if names := cfg.VIPs[0].Name + " " + cfg.VIPs[1].Name; names != "web mail" {
			t.Errorf("VIPs %s", names)
		}
	}
	// However many VIPs share an address, each mistake is one line.
	var many strings.Builder
	for i := range 300 {
		many.WriteString(strings.Replace(first, "web", "web"+strings.Repeat("a", 1+i%40)+strings.Repeat("b", i/40), 1))
	}
	if _, err := ParseConfig("c.toml", []byte(many.String())); err == nil || strings.Count(err.Error(), "\n") > 300 {
		t.Errorf("300 VIPs with the same ports: %.200v", err)
	}
}
