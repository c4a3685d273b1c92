{{/*
The components that are enabled in this phase, as a JSON list of names. Every component is checked, disabled ones too, so that a typo
is an error and not a component that silently does nothing. Each message begins with the key that is wrong.
*/}}
{{- define "telco-cloud-init.enabled" -}}
  {{- $root := . -}}
  {{- $phases := list "bootstrap" "management" -}}
  {{- if not (has .Values.phase $phases) -}}
    {{- fail (printf "phase: unknown value %q: use bootstrap or management" (toString .Values.phase)) -}}
  {{- end -}}
  {{- if not (has .Values.source (list "git" "oci")) -}}
    {{- fail (printf "source: unknown value %q: use git or oci" (toString .Values.source)) -}}
  {{- end -}}
  {{- $enabled := list -}}
  {{- range $name, $component := .Values.components -}}
    {{- $key := printf "components.%s.enabled" $name -}}
    {{- $value := $component.enabled -}}
    {{- if not (hasKey $component "enabled") -}}
      {{- $key = "component_default_enable" -}}
      {{- $value = $root.Values.component_default_enable -}}
    {{- end -}}
    {{- $value = tpl (toString $value) $root -}}
    {{- if has $value (list "yes" "true") -}}
      {{- $enabled = append $enabled $name -}}
    {{- else if has $value (list "bootstrap-only" "management-only") -}}
      {{- if eq $value (printf "%s-only" $root.Values.phase) -}}
        {{- $enabled = append $enabled $name -}}
      {{- end -}}
    {{- else if not (has $value (list "no" "false")) -}}
      {{- fail (printf "%s: unknown value %q: use yes, no, bootstrap-only or management-only" $key $value) -}}
    {{- end -}}
    {{- include "telco-cloud-init.check-repo" (dict "root" $root "name" $name "component" $component) -}}
  {{- end -}}
  {{- if not $enabled -}}
    {{- fail (printf "components: none is enabled in phase %s: the chart renders nothing" .Values.phase) -}}
  {{- end -}}
  {{- include "telco-cloud-init.check-dependencies" (dict "root" $root "enabled" $enabled) -}}
  {{- toJson $enabled -}}
{{- end -}}

{{/*
Checks that a component names a repository that exists and that has one URL.
*/}}
{{- define "telco-cloud-init.check-repo" -}}
  {{- $key := printf "components.%s.repo" .name -}}
  {{- $git := .root.Values.git_repo_templates | default dict -}}
  {{- $oci := .root.Values.oci_repo_templates | default dict -}}
  {{- $known := concat (keys $git) (keys $oci) | uniq | sortAlpha | join ", " -}}
  {{- $repo := .component.repo -}}
  {{- if not $repo -}}
    {{- fail (printf "%s: missing: either %s is not the name of a component, or it is a new one and must say its repository (known: %s)" $key .name $known) -}}
  {{- end -}}
  {{- if eq "true" (include "telco-cloud-init.is-oci" (dict "root" .root "repo" $repo)) -}}
    {{- if not (dig "spec" "url" "" (get $oci $repo)) -}}
      {{- fail (printf "oci_repo_templates.%s.spec.url: missing" $repo) -}}
    {{- end -}}
  {{- else -}}
    {{- if not (hasKey $git $repo) -}}
      {{- fail (printf "%s: unknown repository %q (known: %s)" $key $repo $known) -}}
    {{- end -}}
    {{- $template := get $git $repo | default dict -}}
    {{- $url := dig "spec" "url" "" $template -}}
    {{- if and $url $template.base_url -}}
      {{- fail (printf "git_repo_templates.%s: both base_url and spec.url are set: keep one" $repo) -}}
    {{- end -}}
    {{- if not (or $url $template.base_url) -}}
      {{- fail (printf "git_repo_templates.%s: neither base_url nor spec.url is set: set one" $repo) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{/*
"true" when the repository is fetched as an OCI artifact.
*/}}
{{- define "telco-cloud-init.is-oci" -}}
  {{- and (eq .root.Values.source "oci") (hasKey (.root.Values.oci_repo_templates | default dict) .repo) -}}
{{- end -}}

{{/*
Checks the dependencies of enabled components: each exists, is enabled, and no cycle. A cycle is what remains when components without
open dependencies are taken away again and again; one walk through the remains names it.
*/}}
{{- define "telco-cloud-init.check-dependencies" -}}
  {{- $components := .root.Values.components -}}
  {{- $phase := .root.Values.phase -}}
  {{- $enabled := .enabled -}}
  {{- range $name := $enabled -}}
    {{- range $dependency := (get $components $name).depends_on -}}
      {{- if not (hasKey $components $dependency) -}}
        {{- fail (printf "components.%s.depends_on: unknown component %q (known: %s)" $name $dependency (keys $components | sortAlpha | join ", ")) -}}
      {{- end -}}
      {{- if not (has $dependency $enabled) -}}
        {{- fail (printf "components.%s.depends_on: component %q is not enabled in phase %s: enable it or drop the dependency" $name $dependency $phase) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- $open := $enabled -}}
  {{- range $enabled -}}
    {{- $next := list -}}
    {{- range $name := $open -}}
      {{- $blocked := false -}}
      {{- range $dependency := (get $components $name).depends_on -}}
        {{- if has $dependency $open -}}{{- $blocked = true -}}{{- end -}}
      {{- end -}}
      {{- if $blocked -}}{{- $next = append $next $name -}}{{- end -}}
    {{- end -}}
    {{- $open = $next -}}
  {{- end -}}
  {{- if $open -}}
    {{- $path := list -}}
    {{- $current := first $open -}}
    {{- range until (add (len $open) 1 | int) -}}
      {{- if not (has $current $path) -}}
        {{- $path = append $path $current -}}
        {{- $following := "" -}}
        {{- range $dependency := (get $components $current).depends_on -}}
          {{- if and (not $following) (has $dependency $open) -}}{{- $following = $dependency -}}{{- end -}}
        {{- end -}}
        {{- $current = $following -}}
      {{- end -}}
    {{- end -}}
    {{- /* The walk may enter the cycle from outside: drop what comes before it. */ -}}
    {{- $cycle := list -}}
    {{- range $name := $path -}}
      {{- if or $cycle (eq $name $current) -}}{{- $cycle = append $cycle $name -}}{{- end -}}
    {{- end -}}
    {{- fail (printf "components.%s.depends_on: cycle: %s" $current (append $cycle $current | join " -> ")) -}}
  {{- end -}}
{{- end -}}

{{/*
The user name and password for a component's Git repository as JSON; empty when there are none.
*/}}
{{- define "telco-cloud-init.git-auth" -}}
  {{- $auth := (get .root.Values.git_repo_templates .component.repo).auth | default .root.Values.git_auth_default | default dict -}}
  {{- if and $auth.username $auth.password -}}
    {{- toJson (dict "username" $auth.username "password" $auth.password) -}}
  {{- end -}}
{{- end -}}

{{/*
The kind and name of the source that a component's Kustomization refers to, as JSON.
*/}}
{{- define "telco-cloud-init.source-ref" -}}
  {{- if eq "true" (include "telco-cloud-init.is-oci" (dict "root" .root "repo" .component.repo)) -}}
    {{- $own := printf "component-%s" .name -}}
    {{- toJson (dict "kind" "OCIRepository" "name" (empty .component.ref_override | ternary .component.repo $own)) -}}
  {{- else -}}
    {{- $own := printf "component-%s" .name -}}
    {{- $shared := and (eq true (dig "shared" false (get .root.Values.git_repo_templates .component.repo))) (empty .component.ref_override) -}}
    {{- toJson (dict "kind" "GitRepository" "name" ($shared | ternary .component.repo $own)) -}}
  {{- end -}}
{{- end -}}
