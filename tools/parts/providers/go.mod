// Providers and add-ons of which the bundle holds the manifests: nothing is compiled, so that their dependencies do not meet.
module cluster-init.dev/parts/providers

go 1.26.0

require (
	github.com/k-orc/openstack-resource-controller/v2 v2.4.0
	go.universe.tf/metallb v0.15.2
	k8s.io/cloud-provider-openstack v1.31.2
	sigs.k8s.io/cluster-api-provider-openstack v0.14.2
)
