// Command coredns is CoreDNS with the few plugins that a cluster without a way out needs.
//
// All plugins together take as long to build as the rest of it, and bring newer etcd libraries than Kubernetes builds
// with: hence few plugins, and a module of its own.
package main

import (
	_ "github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() { coremain.Run() }
