{{/*
What the site asks of machines of a cloud: its certificate authority, its proxy, its mirrors of registries. Each of these is the JSON of a
list, for a variable of the component that defines machines. Only what pulls images is proxied: clusters talk to themselves directly.
*/}}

{{/*
Files of machines that kubeadm sets up. containerd reads certs.d where its config_path says so, as published images have it.
*/}}
{{- define "telco-cloud-init.kubeadm-files" -}}
  {{- $files := include "telco-cloud-init.ca-files" . | fromJsonArray -}}
  {{- $proxy := include "telco-cloud-init.proxy-environment" (dict "root" . "prefix" "") -}}
  {{- if $proxy -}}
    {{- $lines := list "[Service]" -}}
    {{- range splitList "\n" $proxy -}}
      {{- /* To systemd a percent sign is the beginning of a specifier. */ -}}
      {{- $lines = append $lines (printf "Environment=%s" (. | replace "%" "%%" | quote)) -}}
    {{- end -}}
    {{- $files = append $files (dict "path" "/etc/systemd/system/containerd.service.d/proxy.conf" "permissions" "0600" "content" (printf "%s\n" (join "\n" $lines))) -}}
  {{- end -}}
  {{- $ca := .Values.ca_certificates -}}
  {{- range $registry, $mirrors := .Values.registry_mirrors -}}
    {{- $server := eq $registry "docker.io" | ternary "registry-1.docker.io" $registry -}}
    {{- $lines := list (printf "server = %q" (printf "https://%s" $server)) -}}
    {{- range $mirrors -}}
      {{- $lines = concat $lines (list (printf "[host.%q]" .) "  capabilities = [\"pull\", \"resolve\"]") -}}
      {{- if $ca -}}
        {{- $lines = append $lines (printf "  ca = %q" (include "telco-cloud-init.ca-path" .)) -}}
      {{- end -}}
    {{- end -}}
    {{- $files = append $files (dict "path" (printf "/etc/containerd/certs.d/%s/hosts.toml" $registry) "permissions" "0644" "content" (printf "%s\n" (join "\n" $lines))) -}}
  {{- end -}}
  {{- /* An empty list is refused. */ -}}
  {{- toJson ($files | default (list (dict "path" "/etc/cluster-init" "permissions" "0644" "content" "Set up by cluster-init.\n"))) -}}
{{- end -}}

{{/*
Commands of machines that kubeadm sets up, before it does.
*/}}
{{- define "telco-cloud-init.kubeadm-commands" -}}
  {{- $commands := include "telco-cloud-init.ca-commands" . | fromJsonArray -}}
  {{- /* containerd reads authorities and proxy when it starts. */ -}}
  {{- if or $commands (include "telco-cloud-init.proxy-environment" (dict "root" . "prefix" "")) -}}
    {{- $commands = concat $commands (list "systemctl daemon-reload" "systemctl restart containerd") -}}
  {{- end -}}
  {{- toJson ($commands | default (list "true")) -}}
{{- end -}}

{{/*
Files of machines that RKE2 sets up.
*/}}
{{- define "telco-cloud-init.rke2-files" -}}
  {{- $files := include "telco-cloud-init.ca-files" . | fromJsonArray -}}
  {{- $proxy := include "telco-cloud-init.proxy-environment" (dict "root" . "prefix" "CONTAINERD_") -}}
  {{- if $proxy -}}
    {{- range list "rke2-server" "rke2-agent" -}}
      {{- $files = append $files (dict "path" (printf "/etc/default/%s" .) "permissions" "0600" "content" (printf "%s\n" $proxy)) -}}
    {{- end -}}
  {{- end -}}
  {{- $root := . -}}
  {{- $mirrors := dict -}}
  {{- $configs := dict -}}
  {{- range $registry, $endpoints := .Values.registry_mirrors -}}
    {{- $_ := set $mirrors $registry (dict "endpoint" $endpoints) -}}
    {{- if $root.Values.ca_certificates -}}
      {{- range $endpoints -}}
        {{- $_ := set $configs (urlParse .).host (dict "tls" (dict "ca_file" (include "telco-cloud-init.ca-path" .))) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- if $mirrors -}}
    {{- $files = append $files (dict "path" "/etc/rancher/rke2/registries.yaml" "permissions" "0644" "content" (dict "mirrors" $mirrors "configs" $configs | toYaml)) -}}
  {{- end -}}
  {{- toJson $files -}}
{{- end -}}

{{/*
Commands of machines that RKE2 sets up, before it does.
*/}}
{{- define "telco-cloud-init.rke2-commands" -}}
  {{- include "telco-cloud-init.ca-commands" . -}}
{{- end -}}

{{- define "telco-cloud-init.ca-path" -}}
/usr/local/share/ca-certificates/site.crt
{{- end -}}

{{- define "telco-cloud-init.ca-files" -}}
  {{- $files := list -}}
  {{- with .Values.ca_certificates -}}
    {{- $files = append $files (dict "path" (include "telco-cloud-init.ca-path" .) "permissions" "0644" "content" (printf "%s\n" (trim .))) -}}
  {{- end -}}
  {{- toJson $files -}}
{{- end -}}

{{- define "telco-cloud-init.ca-commands" -}}
  {{- $commands := list -}}
  {{- if .Values.ca_certificates -}}
    {{- $path := include "telco-cloud-init.ca-path" . -}}
    {{- $commands = append $commands (printf "command -v update-ca-certificates && update-ca-certificates || { cp %s /etc/pki/ca-trust/source/anchors/ && update-ca-trust; }" $path) -}}
  {{- end -}}
  {{- toJson $commands -}}
{{- end -}}

{{/*
The proxy as lines NAME=value; nothing when there is none.
*/}}
{{- define "telco-cloud-init.proxy-environment" -}}
  {{- $proxies := .root.Values.proxies | default dict -}}
  {{- $lines := list -}}
  {{- if or $proxies.http_proxy $proxies.https_proxy -}}
    {{- range $name := list "http_proxy" "https_proxy" "no_proxy" -}}
      {{- with get $proxies $name -}}
        {{- $lines = append $lines (printf "%s%s=%s" $.prefix (upper $name) (replace " " "" .)) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- join "\n" $lines -}}
{{- end -}}

{{/*
The URL of the proxy to the world; nothing when there is none.
*/}}
{{- define "telco-cloud-init.proxy" -}}
  {{- $proxies := .Values.proxies | default dict -}}
  {{- $proxies.https_proxy | default $proxies.http_proxy | default "" -}}
{{- end -}}

{{/*
"true" when a URL is reached through the proxy: there is one, it is no SSH, and no_proxy does not name the host or a domain of it.
*/}}
{{- define "telco-cloud-init.is-proxied" -}}
  {{- $proxied := and (include "telco-cloud-init.proxy" .root) (hasPrefix "http" .url) | empty | not -}}
  {{- if $proxied -}}
    {{- $host := (urlParse .url).hostname -}}
    {{- range splitList "," (.root.Values.proxies.no_proxy | default "") -}}
      {{- $name := trim . | trimPrefix "*" | trimPrefix "." -}}
      {{- if and $name (or (eq $host $name) (hasSuffix (printf ".%s" $name) $host)) -}}
        {{- $proxied = false -}}
      {{- end -}}
    {{- end -}}
    {{- if or (hasSuffix ".svc" $host) (hasSuffix ".cluster.local" $host) -}}
      {{- $proxied = false -}}
    {{- end -}}
  {{- end -}}
  {{- $proxied -}}
{{- end -}}
